/*
 * Scope attributes: what a function acquires is released when its scope ends, on every path.
 * Hand ownership over with steal_fd() / steal_ptr(), which leave "nothing" behind.
 */
#ifndef FS_BASE_CLEANUP_H
#define FS_BASE_CLEANUP_H

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_(void *p) { free(*(void **)p); }
static inline void cleanup_fd_(const int *fd) { if (*fd >= 0) close(*fd); }
static inline void cleanup_unlock_(pthread_mutex_t **m) { if (*m) pthread_mutex_unlock(*m); }

#define auto_free __attribute__((cleanup(cleanup_free_)))
#define auto_fd __attribute__((cleanup(cleanup_fd_)))

#define CLEANUP_CAT2_(a, b) a##b
#define CLEANUP_CAT_(a, b) CLEANUP_CAT2_(a, b)
/* Hold mutex M (a pthread_mutex_t *) until the end of the enclosing scope. */
#define auto_lock(m) \
	__attribute__((cleanup(cleanup_unlock_), unused)) pthread_mutex_t *CLEANUP_CAT_(lock_, __LINE__) = \
		(pthread_mutex_lock(m), (m))

static inline int steal_fd(int *fd) { int r = *fd; *fd = -1; return r; }
static inline void *steal_ptr_(void *pp) { void *r = *(void **)pp; *(void **)pp = NULL; return r; }
#define steal_ptr(pp) ((__typeof__(*(pp)))steal_ptr_(pp))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
