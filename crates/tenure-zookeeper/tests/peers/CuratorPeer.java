import java.io.FileOutputStream;
import java.nio.charset.StandardCharsets;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.retry.ExponentialBackoffRetry;

/** Takes a lock of Curator again and again, and says so in a journal. */
public class CuratorPeer {
    public static void main(String[] args) throws Exception {
        String path = args[1];
        int rounds = Integer.parseInt(args[3]);
        CuratorFramework client =
            CuratorFrameworkFactory.newClient(args[0], 30_000, 30_000, new ExponentialBackoffRetry(100, 5));
        client.start();
        InterProcessMutex mutex = new InterProcessMutex(client, path);
        InterProcessReadWriteLock both = new InterProcessReadWriteLock(client, path);
        try (FileOutputStream journal = new FileOutputStream(args[2], true)) {
            for (int round = 0; round < rounds; round++) {
                boolean reads = args[4].equals("rw") && round % 3 != 0;
                InterProcessMutex lock = args[4].equals("rw") ? (reads ? both.readLock() : both.writeLock()) : mutex;
                String who = (reads ? " r" : " w") + " curator\n";
                lock.acquire();
                journal.write(("begin" + who).getBytes(StandardCharsets.UTF_8));
                journal.write(("end" + who).getBytes(StandardCharsets.UTF_8));
                lock.release();
            }
        }
        client.close();
    }
}
