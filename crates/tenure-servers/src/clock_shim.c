/* Answers clock_gettime, gettimeofday and time with the real time plus offsets, which a test writes to a file that is
 * mapped into memory: three signed 64-bit numbers of nanoseconds, for the clocks of the day, monotonic and of boot.
 *
 * The real time is asked for by a raw system call, so that nothing here calls itself and no allocator is needed: a
 * server that brings its own allocator works as well.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offsets;

__attribute__((constructor)) static void map_offsets(void) {
  const char *path = getenv("TENURE_CLOCK_OFFSETS");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *page = mmap(NULL, 3 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (page != MAP_FAILED) offsets = page;
}

static int64_t offset_of(clockid_t clock) {
  if (!offsets) return 0;
  switch (clock) {
  case CLOCK_REALTIME: case CLOCK_REALTIME_COARSE: case CLOCK_TAI: return offsets[0];
  case CLOCK_MONOTONIC: case CLOCK_MONOTONIC_RAW: case CLOCK_MONOTONIC_COARSE: return offsets[1];
  case CLOCK_BOOTTIME: return offsets[2];
  default: return 0; /* The time of a process or a thread is its own. */
  }
}

int clock_gettime(clockid_t clock, struct timespec *at) {
  if (syscall(SYS_clock_gettime, clock, at)) return -1;
  int64_t nanos = at->tv_nsec + offset_of(clock) % 1000000000;
  int64_t carry = nanos < 0 ? -1 : nanos >= 1000000000 ? 1 : 0;
  at->tv_sec += offset_of(clock) / 1000000000 + carry;
  at->tv_nsec = nanos - carry * 1000000000;
  return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  struct timespec now;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
