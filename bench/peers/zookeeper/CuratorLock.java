import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.ExponentialBackoffRetry;

/**
 * Curator's InterProcessMutex as its documentation shows it: workers are threads of one client. Does what its orders
 * say and writes the same notes as the workers of the bench (src/crew/mod.rs).
 */
public class CuratorLock {
    public static void main(String[] args) throws Exception {
        String key = args[1];
        int first = Integer.parseInt(args[2]);
        int workers = Integer.parseInt(args[3]);
        boolean own = !args[4].equals("0");
        long hold = Long.parseLong(args[5]), away = Long.parseLong(args[6]), spread = Long.parseLong(args[7]);
        CuratorFramework client =
            CuratorFrameworkFactory.newClient(args[0], 30_000, 30_000, new ExponentialBackoffRetry(100, 5));
        client.start();
        InterProcessMutex warm = new InterProcessMutex(client, "/warm-" + first);
        for (int n = 0; n < 200; n++) {
            // The virtual machine compiles what is used, before the clock runs.
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
            InterProcessMutex lock = new InterProcessMutex(client, "/" + key + (own ? "/" + worker : ""));
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
        client.close();
    }

    private static void pause(long nanos, long end) throws InterruptedException {
        long left = Math.min(nanos, end - System.nanoTime());
        if (left > 0) {
            TimeUnit.NANOSECONDS.sleep(left);
        }
    }
}
