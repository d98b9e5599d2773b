/*
 * The fault layer: stands anywhere in a stack and makes operations slow, short, failing or fatal, by rules; for tests and for
 * `tandemfs mount --fault`.
 *
 * Rules are separated by ';', the items of a rule by ',':
 *
 *   op=NAME[|NAME...]   which operations (the members of struct layer_ops, e.g. op=write|fsync); default: all
 *   when:   nth=N       at the Nth of them only (from 1)
 *           every=N     at each Nth
 *           prob=P      at random, 0 < P <= 1; seed=N makes another sequence
 *           (none)      at every one
 *   limit=N             at most N times
 *   what:   delay=TIME  50us, 50ms, 2s (at most 60s); together with others or alone
 *           error=NAME  EIO, ENOSPC, ... or a number; instead of the operation
 *           after       with error: the operation is done, then it fails (effect.changed)
 *           short=N     read, write, copy_range: at most N bytes
 *           crash       SIGKILL for the whole process, before the operation; with after: behind it
 *
 * Example: "op=write,nth=100,error=EIO; op=fsync,delay=50ms"
 */
#ifndef FS_FAULT_H
#define FS_FAULT_H

#include "fs/layer.h"

enum { FAULT_RULES_MAX = 32 };

struct fault_rules;

/* 0, or -EINVAL with an explanation (a line without its end) in ERR; -ENOMEM. */
int fault_parse(const char *text, struct fault_rules **out, char *err, size_t err_size);
void fault_rules_free(struct fault_rules *r);

/* BELOW is borrowed; RULES are owned from here on when it succeeded. */
int fault_new(struct layer *below, struct fault_rules *rules, struct layer **out);
/* How often any rule acted; how many operations there were. */
uint64_t fault_fired(struct layer *fault);
uint64_t fault_calls(struct layer *fault);

#endif
