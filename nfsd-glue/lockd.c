#include "nfsd-glue/lockd.h"

#include <errno.h>
#include <stdlib.h>

struct lockd {
	struct nsm1 *nsm;
	struct lockstate *state;
	struct nlm4 *nlm;
};

static int build(struct lockd *d, const struct lockd_config *cfg)
{
	struct nsm1_config nsm = cfg->nsm;
	struct nlm4_config nlm = cfg->nlm;
	struct lockstate_config state = { .locks = nlm.locks, .ip = cfg->ip, .node = cfg->node, .hosts_changed = nsm1_hosts_changed };

	nsm.client = nlm.client;
	nsm.exports = nlm.exports;
	nsm.state_dir_fd = cfg->state_dir_fd;
	int r = nsm1_new(&nsm, &d->nsm);
	if (r)
		return r;
	state.arg = d->nsm;
	r = lockstate_new(&state, &d->state);
	if (!r)
		r = nsm1_start(d->nsm, d->state);
	nlm.state = d->state;
	nlm.nsm = d->nsm;
	return r ? r : nlm4_new(&nlm, &d->nlm);
}

int lockd_new(const struct lockd_config *cfg, struct lockd **out)
{
	struct lockd *d = calloc(1, sizeof *d);

	if (!d)
		return -ENOMEM;
	int r = build(d, cfg);
	if (r) {
		lockd_free(d);
		return r;
	}
	*out = d;
	return 0;
}

void lockd_stop(struct lockd *d) { nsm1_stop(d->nsm); }

void lockd_free(struct lockd *d)
{
	if (!d)
		return;
	if (d->nsm)
		nsm1_stop(d->nsm);
	nlm4_free(d->nlm);
	lockstate_free(d->state);
	nsm1_free(d->nsm);
	free(d);
}

void lockd_programs(struct lockd *d, struct rpc_program out[LOCKD_PROGRAMS])
{
	nlm4_program(d->nlm, &out[0]);
	nsm1_program(d->nsm, &out[1]);
}

void lockd_part(struct lockd *d, struct replica_part *out) { lockstate_part(d->state, out); }
void lockd_role(struct lockd *d, enum nlm4_role role, bool kept) { nlm4_role(d->nlm, role, kept); }

void lockd_following(struct lockd *d, unsigned primary) { lockstate_following(d->state, primary); }

void lockd_stats(struct lockd *d, struct lockd_stats *out)
{
	lockstate_stats(d->state, &out->state);
	nlm4_stats(d->nlm, &out->nlm);
}
