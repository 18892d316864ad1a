/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a QEMU that a guest took over says on its control channel: the input, cut into pieces of the size that its
 * first byte says. Lines come out as they went in however they are cut; what is taken for a message has what its kind
 * promises.
 */
#include "fuzz.h"

#include <string.h>
#include "vm/qmp.h"

static void check(const char *line, size_t len)
{
	struct banger_error err = {0};
	struct qmp_message m;

	MUST(strlen(line) <= len && !memchr(line, '\n', len));
	if (qmp_parse(line, len, &m, &err) < 0) {
		MUST(err.code != BANGER_OK && err.message[0]);
		return;
	}
	MUST(m.doc && (m.kind == QMP_GREETING || m.kind == QMP_RETURN || m.text));
	qmp_message_done(&m);
	MUST(!m.doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct qmp_lines l;
	char *line;
	size_t len, room, seen = 0;
	int r = 0;

	if (size < 1)
		return 0;
	size_t piece = data[0] + 1;
	l.len = l.scanned = 0;
	for (size_t at = 1; at < size && r >= 0; at += piece) {
		size_t n = size - at < piece ? size - at : piece;
		char *to = qmp_lines_space(&l, &room);

		MUST(room > 0);
		if (n > room)
			n = piece = room;
		memcpy(to, data + at, n);
		qmp_lines_added(&l, n);
		while ((r = qmp_lines_next(&l, &line, &len)) == 1) {
			check(line, len);
			seen++;
		}
	}
	size_t ends = 0;
	for (size_t i = 1; i < size; i++)
		ends += data[i] == '\n';
	MUST(r == -EMSGSIZE || seen == ends);
	return 0;
}
