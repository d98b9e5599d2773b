/*
 * The pool: threads for calls that may wait. They are started when there is more to do than idle ones, RPC_POOL_MAX at most, and go when they have been idle for a while.
 *
 * Fair: what is queued is not calls but connections (once for each class) that have calls, and each takes its turn with one. A connection has at most
 * RPC_CONN_RUNNING_MAX calls running; one whose answers aren't taken has none begun (`held`). Calls that may wait for a peer leave a quarter of the threads
 * to the others: when a standby is stuck, a disk can still be read from.
 *
 * A job is one allocation: the call, and the record unless that lies in a block.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "nfsd-glue/rpc_int.h"

enum {
	IDLE_MS = 20000,
	PEER_RUNNING_MAX = RPC_POOL_MAX * 3 / 4,
	REPLY_BUF_LEN = 64 << 10,
	COPY_MAX = 8 << 10,		/* longer records are copied to a block, so that their data can be shared */
};

struct rpc_job {
	struct rpc_job *next;
	struct rpc_conn *c;		/* holds a reference */
	const struct rpc_program *program;
	struct rpc_call call;
	struct blk *blk;		/* owned reference; holds the record, or NULL: rec does */
	size_t charge;
	unsigned class;
	_Alignas(8) unsigned char rec[];
};

/* ---- jobs ---- */

/* Points C, a copy of a call whose record lay at OLD, to the record at NEW. */
static void rebase(struct rpc_call *c, const unsigned char *old, const unsigned char *new)
{
	c->args = new + (c->args - old);
	if (c->cred.machine)
		c->cred.machine = (const char *)new + ((const unsigned char *)c->cred.machine - old);
}

static struct rpc_job *job_new(struct rpc_conn *c, const struct rpc_call *call, const unsigned char *rec, size_t len, struct blk *blk)
{
	size_t copy = blk || len > COPY_MAX ? 0 : len;
	struct rpc_job *j = malloc(sizeof *j + copy);

	if (!j)
		return NULL;
	j->next = NULL;
	j->call = *call;
	j->blk = blk ? blk_ref(blk) : NULL;
	if (!blk && !copy) {
		j->blk = blk_new(len);
		if (!j->blk) {
			free(j);
			return NULL;
		}
		memcpy(j->blk->data, rec, len);
		rebase(&j->call, rec, j->blk->data);
	} else if (copy) {
		memcpy(j->rec, rec, len);
		rebase(&j->call, rec, j->rec);
	}
	j->call.owner = j->blk;
	j->charge = sizeof *j + (j->blk ? j->blk->cap : copy);
	j->c = rpc_conn_get(c);
	return j;
}

/* The job is done with, or won't be done: whoever waits for less in flight is told. */
static void job_end(struct rpc_job *j)
{
	struct rpc_conn *c = j->c;
	struct rpc_server *s = c->s;
	size_t all = atomic_fetch_sub(&s->inflight, j->charge) - j->charge, left = atomic_fetch_sub(&c->inflight, j->charge) - j->charge;
	unsigned calls = atomic_fetch_sub(&c->calls, 1) - 1;

	if ((atomic_load(&c->waiting) & WAIT_CALLS) && calls <= RPC_CONN_CALLS_MAX / 2 && left <= RPC_CONN_INFLIGHT_MAX / 2) {
		atomic_fetch_and(&c->waiting, ~(unsigned)WAIT_CALLS);
		rpc_loop_wake(c->loop);
	}
	if (atomic_load(&s->starving) && all <= RPC_INFLIGHT_MAX / 4 * 3 && atomic_exchange(&s->starving, false))
		for (unsigned i = 0; i < s->nloops; i++)
			rpc_loop_wake(&s->loops[i]);
	blk_unref(j->blk);
	rpc_conn_put(c);
	free(j);
}

/* ---- the queue; all under mu ---- */

static bool may_run(const struct rpc_conn *c)
{
	return c->running < RPC_CONN_RUNNING_MAX && !(atomic_load(&c->waiting) & WAIT_HELD);
}

static void enqueue(struct rpc_pool *p, struct rpc_conn *c, unsigned class)
{
	struct rpc_run *r = &c->run[class];

	if (r->queued || !r->first || !may_run(c))
		return;
	r->queued = true;
	r->next = NULL;
	*p->ready_last[class] = r;
	p->ready_last[class] = &r->next;
}

static void enqueue_all(struct rpc_pool *p, struct rpc_conn *c)
{
	for (unsigned class = 0; class < RUN_CLASSES; class++)
		enqueue(p, c, class);
}

static struct rpc_run *dequeue(struct rpc_pool *p, unsigned class)
{
	struct rpc_run *r = p->ready[class];

	if (!r || (class == RUN_PEER && p->running[class] >= PEER_RUNNING_MAX))
		return NULL;
	p->ready[class] = r->next;
	if (!r->next)
		p->ready_last[class] = &p->ready[class];
	r->queued = false;
	return r;
}

static bool stuffed(const struct rpc_conn *c)
{
	size_t bytes = atomic_load(&c->out_bytes);

	return bytes > RPC_CONN_OUTPUT_MAX || (bytes && atomic_load(&c->s->output) > RPC_OUTPUT_MAX);
}

/* Too many answers of C aren't taken by its client: it rests until rpc_out.c says so. */
static bool hold_back(struct rpc_conn *c)
{
	if (!stuffed(c))
		return false;
	atomic_fetch_or(&c->waiting, WAIT_HELD);
	if (stuffed(c))
		return true;
	atomic_fetch_and(&c->waiting, ~(unsigned)WAIT_HELD);
	return false;
}

static struct rpc_job *take_from(struct rpc_pool *p, unsigned class)
{
	struct rpc_run *r;

	while ((r = dequeue(p, class))) {
		struct rpc_job *j = r->first;

		if (!j || !may_run(r->c) || hold_back(r->c))
			continue;
		r->first = j->next;
		if (!r->first)
			r->last = &r->first;
		r->c->running++;
		p->running[class]++;
		p->jobs--;
		p->calls++;
		enqueue(p, r->c, class);
		return j;
	}
	return NULL;
}

static struct rpc_job *take(struct rpc_pool *p)
{
	struct rpc_job *j = NULL;

	for (unsigned i = 0; i < RUN_CLASSES && !j; i++)
		j = take_from(p, p->turn++ % RUN_CLASSES);
	return j;
}

/* ---- threads ---- */

struct worker { struct rpc_server *s; unsigned char *buf; void *scratch; };

static bool run(const struct worker *w, struct rpc_job *j)
{
	struct rpc_reply r;
	struct rpc_out o;
	bool fault = false;

	rpc_reply_init(&r, w->buf, REPLY_BUF_LEN);
	j->call.scratch = w->scratch;
	enum rpc_verdict v = j->program->handle(j->program->arg, &j->call, &r);
	if (rpc_conclude(&r, j->call.xid, v, &o, &fault))
		rpc_out_send(j->c, NULL, 0, &o);
	rpc_reply_end(&r);
	return fault;
}

/* Does what there is to do until there has been nothing for a while. Under mu, which is dropped for the work. */
static void work(const struct worker *w, struct rpc_pool *p)
{
	while (!p->stopping) {
		struct rpc_job *j = take(p);

		if (!j) {
			struct timespec until = clock_mono_after_ms(IDLE_MS);
			p->idle++;
			int err = pthread_cond_timedwait(&p->work, &p->mu, &until);
			p->idle--;
			if (err == ETIMEDOUT && p->threads > 1 && !p->jobs)
				return;
			continue;
		}
		struct rpc_conn *c = j->c;
		unsigned class = j->class;

		pthread_mutex_unlock(&p->mu);
		bool fault = run(w, j);
		pthread_mutex_lock(&p->mu);
		p->faults += fault;
		c->running--;
		p->running[class]--;
		enqueue_all(p, c);
		pthread_mutex_unlock(&p->mu);
		job_end(j);
		pthread_mutex_lock(&p->mu);
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct rpc_pool *p = &w->s->pool;

	pthread_mutex_lock(&p->mu);
	work(w, p);
	p->threads--;
	pthread_cond_signal(&p->gone);
	pthread_mutex_unlock(&p->mu);
	free(w->buf);
	free(w->scratch);
	free(w);
	return NULL;
}

static int worker_start(struct rpc_server *s)
{
	struct worker *w = calloc(1, sizeof *w);
	pthread_attr_t a;
	pthread_t t;
	int err = ENOMEM;

	if (!w)
		return -ENOMEM;
	w->s = s;
	w->buf = malloc(REPLY_BUF_LEN);
	w->scratch = aligned_alloc(64, RPC_SCRATCH_LEN);
	pthread_attr_init(&a);
	pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	if (w->buf && w->scratch)
		err = pthread_create(&t, &a, worker_main, w);
	pthread_attr_destroy(&a);
	if (err) {
		free(w->buf);
		free(w->scratch);
		free(w);
	}
	return -err;
}

/* Under mu: starts a thread when there is more to do than idle ones. True: an idle one is to be woken, best when mu is free. */
static bool get_help(struct rpc_server *s)
{
	struct rpc_pool *p = &s->pool;
	bool idle = p->idle;

	if (p->jobs <= p->idle || p->threads == RPC_POOL_MAX)
		return idle;
	p->threads++;
	if (worker_start(s))
		p->threads--;			/* one is always there: it takes longer, that's all */
	return idle;
}

/* ---- for the others ---- */

int rpc_pool_submit(struct rpc_conn *c, const struct rpc_program *program, enum rpc_speed speed, const struct rpc_call *call, const unsigned char *rec,
		    size_t len, struct blk *blk)
{
	struct rpc_pool *p = &c->s->pool;
	struct rpc_job *j = job_new(c, call, rec, len, blk);

	if (!j)
		return -ENOMEM;
	j->program = program;
	j->class = speed == RPC_PEER ? RUN_PEER : RUN_DISK;
	atomic_fetch_add(&c->calls, 1);
	atomic_fetch_add(&c->inflight, j->charge);
	atomic_fetch_add(&c->s->inflight, j->charge);
	pthread_mutex_lock(&p->mu);
	*c->run[j->class].last = j;
	c->run[j->class].last = &j->next;
	p->jobs++;
	enqueue(p, c, j->class);
	bool idle = get_help(c->s);
	pthread_mutex_unlock(&p->mu);
	if (idle)
		pthread_cond_signal(&p->work);
	return 0;
}

void rpc_pool_resume(struct rpc_conn *c)
{
	struct rpc_pool *p = &c->s->pool;
	auto_lock(&p->mu);

	enqueue_all(p, c);
	if (!p->jobs)
		return;
	get_help(c->s);
	pthread_cond_broadcast(&p->work);
}

void rpc_pool_purge(struct rpc_conn *c)
{
	struct rpc_pool *p = &c->s->pool;
	struct rpc_job *first = NULL, **last = &first, *j;

	pthread_mutex_lock(&p->mu);
	for (unsigned class = 0; class < RUN_CLASSES; class++) {
		struct rpc_run *r = &c->run[class];

		for (*last = r->first; *last; last = &(*last)->next)
			p->jobs--;
		r->first = NULL;
		r->last = &r->first;
		for (struct rpc_run **at = &p->ready[class]; r->queued && *at; at = &(*at)->next) {
			if (*at != r)
				continue;
			*at = r->next;
			if (!*at)
				p->ready_last[class] = at;
			r->queued = false;
			break;
		}
	}
	pthread_mutex_unlock(&p->mu);
	while ((j = first)) {
		first = j->next;
		job_end(j);
	}
}

void rpc_pool_init(struct rpc_pool *p)
{
	pthread_mutex_init(&p->mu, NULL);
	cond_init_mono(&p->work);
	pthread_cond_init(&p->gone, NULL);
	for (unsigned i = 0; i < RUN_CLASSES; i++)
		p->ready_last[i] = &p->ready[i];
}

int rpc_pool_start(struct rpc_server *s)
{
	auto_lock(&s->pool.mu);
	int err = worker_start(s);

	if (!err)
		s->pool.threads++;
	return err;
}

void rpc_pool_stop(struct rpc_server *s)
{
	struct rpc_pool *p = &s->pool;
	auto_lock(&p->mu);

	p->stopping = true;
	pthread_cond_broadcast(&p->work);
	while (p->threads)
		pthread_cond_wait(&p->gone, &p->mu);
}

void rpc_pool_free(struct rpc_pool *p)
{
	pthread_mutex_destroy(&p->mu);
	pthread_cond_destroy(&p->work);
	pthread_cond_destroy(&p->gone);
}
