/*
 * The decoder of ops. Input: u16 length of the data, u8s of meta; the data are as long as announced, up to what there is.
 * What is accepted must be encoded to the same bytes again, and its lists can be walked.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mirror/op.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size);

static void walk(const struct op *op)
{
	char name[256];
	const void *value;
	size_t len;
	uint64_t id;
	uint32_t type;
	struct dec d = dec_init(op->xattrs, op->xattrs_len);

	while (op_xattrs_next(&d, name, &value, &len))
		if (!strlen(name))
			abort();
	d = dec_init(op->blob, op->blob_len);
	while (op->type == OP_R_DIR && op_entries_next(&d, &id, &type, name))
		if (!id_valid(id) || strchr(name, '/'))
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size)
{
	static const unsigned char data[1 << 16];
	char scratch[512];
	struct op op;

	if (size < 2)
		return 0;
	size_t data_len = (size_t)in[0] | (size_t)in[1] << 8, meta_len = size - 2;
	unsigned char *meta = malloc(meta_len + 1);	/* exactly as long as it is: reading on is caught */
	memcpy(meta, in + 2, meta_len);
	unsigned char *tight = realloc(meta, meta_len ? meta_len : 1);
	if (op_decode(tight, meta_len, data, data_len, scratch, &op) == 0) {
		struct enc e = { 0 };
		walk(&op);
		if (op_encode(&e, &op) != 0 || e.len != meta_len || memcmp(e.p, tight, meta_len) != 0)
			abort();
		enc_free(&e);
	}
	free(tight);
	return 0;
}
