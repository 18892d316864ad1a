/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fault points: places at which a test build (-Dfault_points=true) can be told to die or to fail.
 *	BANGER_FAULT=name:n   the n-th passage (from 1) of the point kills the process with SIGKILL
 *	BANGER_FAULT=*:n      the n-th passage of any point does
 *	BANGER_FAULT_LOG=FILE each passage appends the point's name to FILE, to enumerate them
 * In an ordinary build the macro is nothing.
 */
#ifndef BANGER_FAULT_H
#define BANGER_FAULT_H
#ifdef BANGER_FAULT_POINTS
void banger_fault_point(const char *name);
#define FAULT_POINT(name) banger_fault_point(name)
#else
#define FAULT_POINT(name) ((void)0)
#endif
#endif
