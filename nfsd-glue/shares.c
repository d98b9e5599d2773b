/* Reservations hang in a list per bucket of the file's id. One file's are few; SHARES_FILE_MAX bounds the walk. */
#include "nfsd-glue/shares.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fs/base/cleanup.h"

enum { BUCKETS = 4096 };

struct node {
	struct node *next;
	struct share s;			/* s.who: a reference */
};

struct shares {
	share_record_fn record;
	void *arg;
	pthread_mutex_t mu;		/* guards all below */
	unsigned n;
	struct node *bucket[BUCKETS];	/* owned */
};

static struct node **bucket_of(struct shares *t, uint64_t id) { return &t->bucket[(id ^ id >> 32) % BUCKETS]; }

int shares_new(share_record_fn record, void *arg, struct shares **out)
{
	struct shares *t = calloc(1, sizeof *t);

	if (!t)
		return -ENOMEM;
	t->record = record;
	t->arg = arg;
	pthread_mutex_init(&t->mu, NULL);
	*out = t;
	return 0;
}

static void take_out(struct shares *t, struct node **p)
{
	struct node *gone = *p;

	*p = gone->next;
	if (gone->s.who)
		gone->s.who->put(gone->s.who);
	free(gone);
	t->n--;
}

void shares_free(struct shares *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < BUCKETS; i++)
		while (t->bucket[i])
			take_out(t, &t->bucket[i]);
	pthread_mutex_destroy(&t->mu);
	free(t);
}

static struct node **find(struct shares *t, uint64_t id, uint64_t key)
{
	struct node **p = bucket_of(t, id);

	while (*p && ((*p)->s.id != id || (*p)->s.key != key))
		p = &(*p)->next;
	return p;
}

static int record(struct shares *t, const struct share *s, bool set, uint64_t *seq)
{
	return t->record && seq ? t->record(t->arg, s, set, seq) : 0;
}

/* -EAGAIN: others are in the way; -ENOLCK: there is no room for one more. */
static int admit(struct shares *t, const struct share *s)
{
	unsigned same = 0;

	for (const struct node *n = *bucket_of(t, s->id); n; n = n->next) {
		if (n->s.id != s->id)
			continue;
		same++;
		if (n->s.key != s->key && ((n->s.deny & s->access) || (s->deny & n->s.access)))
			return -EAGAIN;
	}
	return same >= SHARES_FILE_MAX || t->n >= SHARES_MAX ? -ENOLCK : 0;
}

/* What the owner has on the file becomes S; SPARE is used (and set to NULL) when it has nothing yet. */
static void put(struct shares *t, const struct share *s, struct node **spare)
{
	struct node **p = find(t, s->id, s->key), *n = *p;

	if (!n) {
		n = steal_ptr(spare);
		*n = (struct node){ .next = *bucket_of(t, s->id), .s = *s };
		if (s->who)
			atomic_fetch_add(&s->who->refs, 1);
		*bucket_of(t, s->id) = n;
		t->n++;
	}
	n->s.access = s->access;
	n->s.deny = s->deny;
}

int shares_set(struct shares *t, const struct share *s, uint64_t *seq)
{
	struct node *spare = malloc(sizeof *spare);
	int r = spare ? 0 : -ENOLCK;

	pthread_mutex_lock(&t->mu);
	const struct node *had = *find(t, s->id, s->key);
	if (!r)
		r = admit(t, s);
	if (r == -ENOLCK && had && spare)	/* it replaces one */
		r = 0;
	if (!r)
		r = record(t, s, true, seq);
	if (!r)
		put(t, s, &spare);
	pthread_mutex_unlock(&t->mu);
	free(spare);
	return r;
}

int shares_clear(struct shares *t, uint64_t id, uint64_t key, uint64_t *seq)
{
	auto_lock(&t->mu);
	struct node **p = find(t, id, key);
	int r = *p ? record(t, &(*p)->s, false, seq) : 0;

	if (!r && *p)
		take_out(t, p);
	return r;
}

int shares_drop(struct shares *t, bool (*match)(void *arg, const struct share *s), void *arg, uint64_t *seq)
{
	int r = 0;

	auto_lock(&t->mu);
	for (unsigned i = 0; i < BUCKETS; i++)
		for (struct node **p = &t->bucket[i]; *p && !r;) {
			if (!match(arg, &(*p)->s))
				p = &(*p)->next;
			else if (!(r = record(t, &(*p)->s, false, seq)))
				take_out(t, p);
		}
	return r;
}

int shares_apply(struct shares *t, const struct share *s, bool set)
{
	struct node *spare = malloc(sizeof *spare);

	if (!spare)
		return -ENOLCK;
	pthread_mutex_lock(&t->mu);
	struct node **p = find(t, s->id, s->key);
	if (set)
		put(t, s, &spare);
	else if (*p)
		take_out(t, p);
	pthread_mutex_unlock(&t->mu);
	free(spare);
	return 0;
}

int shares_each(struct shares *t, int (*fn)(void *arg, const struct share *s), void *arg)
{
	int r = 0;

	auto_lock(&t->mu);
	for (unsigned i = 0; i < BUCKETS && !r; i++)
		for (const struct node *n = t->bucket[i]; n && !r; n = n->next)
			r = fn(arg, &n->s);
	return r ? r : fn(arg, NULL);
}

unsigned shares_count(struct shares *t)
{
	auto_lock(&t->mu);
	return t->n;
}
