/* Clocks. Decision code never reads one: time comes in with the event. */
#ifndef FS_BASE_CLOCK_H
#define FS_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Milliseconds and nanoseconds of CLOCK_MONOTONIC: for timeouts. */
uint64_t clock_mono_ms(void);
uint64_t clock_mono_ns(void);
/* CLOCK_REALTIME, full resolution. */
struct timespec clock_wall(void);
/* An absolute CLOCK_MONOTONIC time MS from now, for pthread_cond_timedwait on a condition made
 * with cond_init_mono(). */
struct timespec clock_mono_after_ms(uint64_t ms);

/* <0, 0, >0 */
int time_cmp(struct timespec a, struct timespec b);

#include <pthread.h>
/* A condition variable whose timed waits use CLOCK_MONOTONIC. */
void cond_init_mono(pthread_cond_t *c);

#endif
