/*
 * Arguments of procedures: a bounded walk over them, before anything decodes them. libnfs's coders (zdr_*) believe what lengths say and are not
 * meant to face a network; what this walk lets through they can't get wrong: every length within its bound and within the arguments, every
 * boolean 0 or 1, every enumeration one of its values, nothing missing and nothing left over.
 *
 * What a procedure's arguments look like is a string, one letter for each part:
 *
 *	f  nfs_fh3: opaque<64>			b  bool
 *	n  filename3: a name			u  uint32	U  uint64
 *	p  nfspath3: a symbolic link's target	8  8 bytes as they are
 *	s  sattr3				o  netobj: opaque<1024> (NLM)
 *	g  sattrguard3				m  string<1024> (NLM, NSM)
 *	c  createhow3				d  dirpath: string<1024> (MOUNT)
 *	k  mknoddata3				C  16 bytes as they are
 *	w  the rest of WRITE3args: count, stable, data
 *
 * A name that is well-formed XDR but can't be a name is told apart: it gets an answer of the procedure, and not GARBAGE_ARGS.
 */
#ifndef NFSD_GLUE_ARGS_H
#define NFSD_GLUE_ARGS_H

#include <stddef.h>

enum { ARGS_FH_MAX = 64, ARGS_STRING_MAX = 1024, ARGS_PATH_MAX = 4095, ARGS_NAME_MAX = 255 };

/* LEN bytes at P against SHAPE. 0; -EBADMSG: GARBAGE_ARGS; -ENAMETOOLONG: a name or target is too long; -EINVAL: a name is empty or has a NUL or '/' in it, a target is
 * empty or has a NUL in it, or a time has 10^9 nanoseconds or more (the first of these counts). */
int args_check(const char *shape, const void *p, size_t len);

#endif
