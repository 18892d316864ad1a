/* SPDX-License-Identifier: Apache-2.0 */
/*
 * banger-unpack --bundle OPTIONS: takes a bundle apart (bundle/bundle.h) with the same rights as an
 * unpacker of layers, namely none. OPTIONS is {"files":N,"memory":BYTES,"cpu_seconds":S,"unpacked":BYTES}; the
 * descriptors are the bundle, the file for its document, the pipe for status lines, and N files. The
 * lines are {"progress":{"read":BYTES}}, {"result":{"files":N,"read":BYTES}} and {"error":{"code","message"}}.
 */
#ifndef BANGER_UNPACK_PROGRAM_BUNDLE_H
#define BANGER_UNPACK_PROGRAM_BUNDLE_H

enum {
	BUNDLE_FD_IN = 3,
	BUNDLE_FD_DOCUMENT = 4,
	BUNDLE_FD_STATUS = 5,
	BUNDLE_FD_FILES = 6,
	BUNDLE_FILES_MOST = 64
};

/* The exit status. */
int bundle_main(const char *options);

#endif
