import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** The worker of the benches: workers are threads. It does what its orders say; see bench/src/crew/mod.rs. */
final class Worker {
    /** A lock of one key. */
    interface Lock {
        void acquire() throws Exception;

        void release() throws Exception;
    }

    /** Makes the lock of a key. */
    interface Locks {
        Lock of(String key);
    }

    /** Connects. */
    interface Client {
        Locks connect(String at, long ttlNanos) throws Exception;
    }

    /** So many cycles before the clock runs: the virtual machine compiles what is used. */
    private static final int WARM_UP = 200;

    private Worker() {}

    static void run(String[] args, Client client) throws Exception {
        String key = args[1];
        int first = Integer.parseInt(args[2]);
        int workers = Integer.parseInt(args[3]);
        boolean own = !args[4].equals("0");
        long hold = Long.parseLong(args[5]), away = Long.parseLong(args[6]), spread = Long.parseLong(args[7]);
        Locks locks = client.connect(args[0], Long.parseLong(args[8]));
        Lock warm = locks.of(key + "/warm/" + first);
        for (int n = 0; n < WARM_UP; n++) {
            warm.acquire();
            warm.release();
        }
        System.out.println("ready");
        System.out.flush();
        String[] times = new BufferedReader(new InputStreamReader(System.in)).readLine().split(" ");
        long start = Long.parseLong(times[0]), end = Long.parseLong(times[1]);
        List<Thread> threads = new ArrayList<>();
        List<long[]> held = new ArrayList<>();
        for (int n = 0; n < workers; n++) {
            int worker = first + n;
            Lock lock = locks.of(own ? key + "/" + worker : key);
            Thread thread = new Thread(() -> {
                try {
                    List<long[]> mine = new ArrayList<>();
                    pause(start - System.nanoTime() + spread * (worker - first) / workers, end);
                    while (System.nanoTime() < end) {
                        long asked = System.nanoTime();
                        lock.acquire();
                        long had = System.nanoTime();
                        pause(hold, end);
                        long released = System.nanoTime();
                        lock.release();
                        mine.add(new long[] {worker, asked, had, released});
                        pause(away, end);
                    }
                    synchronized (held) {
                        held.addAll(mine);
                    }
                } catch (Exception error) {
                    error.printStackTrace();
                    System.exit(1);
                }
            });
            threads.add(thread);
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        ByteBuffer notes = ByteBuffer.allocate(held.size() * 32).order(ByteOrder.LITTLE_ENDIAN);
        for (long[] note : held) {
            for (long word : note) {
                notes.putLong(word);
            }
        }
        Files.write(Path.of(args[9]), notes.array());
        // Clients leave threads behind.
        System.exit(0);
    }

    private static void pause(long nanos, long end) throws InterruptedException {
        long left = Math.min(nanos, end - System.nanoTime());
        if (left > 0) {
            TimeUnit.NANOSECONDS.sleep(left);
        }
    }
}
