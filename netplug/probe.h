/* SPDX-License-Identifier: MIT */
#ifndef NETPLUG_PROBE_H
#define NETPLUG_PROBE_H

/**
 * enum plug_part - What holding back network output is made of, in the order it is tried
 */
enum plug_part {
	PLUG_NAMESPACE, /* a network namespace to try it in */
	PLUG_NETLINK,	/* rtnetlink: a device is found and set up */
	PLUG_QDISC,	/* sch_plug: the kernel has the queueing discipline */
	PLUG_HOLDS,	/* a packet waits until it is let go, and then comes */
	PLUG_PART_COUNT
};

/**
 * struct plug_probe - Can output be held back?
 * @missing:	The first part that did not work, PLUG_PART_COUNT if all do
 * @code:	Why, a negative errno
 */
struct plug_probe {
	enum plug_part missing;
	int code;
};

/**
 * plug_probe() - Try it on lo, in a namespace of its own
 *
 * In a child process: no device of the machine is touched. The kernel may load the
 * module sch_plug for it, as it does when it is used. Any thread; blocks for
 * milliseconds, a second at most where packets do not come.
 */
void plug_probe(struct plug_probe *probe);

#endif /* NETPLUG_PROBE_H */
