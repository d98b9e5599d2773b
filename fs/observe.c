/* Observers of changes: a fixed list, filled before the volume serves, so that telling needs no lock. */
#include "fs/observe.h"

#include <assert.h>
#include <stddef.h>

void observers_add(struct observers *os, observe_fn fn, void *arg)
{
	assert(fn && os->n < OBSERVERS_MAX);
	os->o[os->n].fn = fn;
	os->o[os->n].arg = arg;
	os->n++;
}

void observers_tell(const struct observers *os, const struct change *c)
{
	for (unsigned i = 0; os && i < os->n; i++)
		os->o[i].fn(os->o[i].arg, c);
}
