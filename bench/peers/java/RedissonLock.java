import org.redisson.Redisson;
import org.redisson.api.RLock;
import org.redisson.api.RedissonClient;
import org.redisson.config.Config;

/** Redisson's RLock as its documentation shows it: no lease time, so that its watchdog renews. */
public class RedissonLock {
    public static void main(String[] args) throws Exception {
        Worker.run(args, (at, ttl) -> {
            Config config = new Config();
            config.useSingleServer().setAddress(at);
            RedissonClient client = Redisson.create(config);
            return key -> {
                RLock lock = client.getLock(key);
                return new Worker.Lock() {
                    public void acquire() {
                        lock.lock();
                    }

                    public void release() {
                        lock.unlock();
                    }
                };
            };
        });
    }
}
