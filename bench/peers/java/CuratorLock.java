import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.ExponentialBackoffRetry;

/** Curator's InterProcessMutex as its documentation shows it. */
public class CuratorLock {
    public static void main(String[] args) throws Exception {
        Worker.run(args, (at, ttl) -> {
            CuratorFramework client =
                CuratorFrameworkFactory.newClient(at, 30_000, 30_000, new ExponentialBackoffRetry(100, 5));
            client.start();
            return key -> {
                InterProcessMutex mutex = new InterProcessMutex(client, "/" + key);
                return new Worker.Lock() {
                    public void acquire() throws Exception {
                        mutex.acquire();
                    }

                    public void release() throws Exception {
                        mutex.release();
                    }
                };
            };
        });
    }
}
