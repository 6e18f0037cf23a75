/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_NETPLUG_CONTRACT_H
#define SELFTESTS_NETPLUG_CONTRACT_H

/*
 * What every edge owes: <wherry/netplug.h>, as tests.
 */
#include "selftests/netplug/world.h"

TEST_F(contract, nothing_goes_before_its_epoch)
{
	unsigned outside = 0;

	SEND(0, 2);
	SEES(0, 2);
	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 3);
	SEES(1, 0);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	SEES(1, 0);
	SEND(2, 10);
	SEES(1, 0);
	DO(wh_netplug_release(self->plug, 1, &self->err));
	SEES(1, 3);
	DO(wh_netplug_turn(self->plug, 2, &self->err));
	SEND(3, 4);
	SEES(2, 0);
	DO(wh_netplug_release(self->plug, 2, &self->err));
	SEES(2, 10);
	/* an empty epoch, and one that was released before */
	DO(wh_netplug_turn(self->plug, 3, &self->err));
	DO(wh_netplug_release(self->plug, 3, &self->err));
	SEES(3, 4);
	DO(wh_netplug_turn(self->plug, 4, &self->err));
	DO(wh_netplug_release(self->plug, 4, &self->err));
	DO(wh_netplug_release(self->plug, 2, &self->err));
	SEND(5, 1);
	SEES(5, 0);
}

TEST_F(contract, wrong_epochs_do_nothing)
{
	unsigned outside = 0;

	ASSERT_EQ(-EINVAL, wh_netplug_turn(self->plug, 1, NULL));
	ASSERT_EQ(-EINVAL, wh_netplug_release(self->plug, 1, NULL));
	ASSERT_EQ(-EINVAL, wh_netplug_fence(self->plug, NULL));
	DO(wh_netplug_disarm(self->plug, &self->err));
	DO(wh_netplug_arm(self->plug, &self->err));
	ASSERT_EQ(-EBUSY, wh_netplug_arm(self->plug, NULL));
	SEND(1, 3);
	ASSERT_EQ(-EINVAL, wh_netplug_turn(self->plug, 2, NULL));
	ASSERT_EQ(-EINVAL, wh_netplug_release(self->plug, 1, NULL));
	ASSERT_EQ(-EINVAL, wh_netplug_release(self->plug, 0, NULL));
	SEES(1, 0);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	ASSERT_EQ(-EINVAL, wh_netplug_turn(self->plug, 1, NULL));
	ASSERT_EQ(-EINVAL, wh_netplug_release(self->plug, 2, NULL));
	SEES(1, 0);
	DO(wh_netplug_release(self->plug, 1, &self->err));
	SEES(1, 3);
}

/* Two closed epochs wait where they can; where not, the second stays open and nothing is mixed */
TEST_F(contract, epochs_that_wait)
{
	unsigned outside = 0;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 3);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	SEND(2, 10);
	if (closed_most == 1) {
		ASSERT_EQ(-EBUSY, wh_netplug_turn(self->plug, 2, NULL));
		DO(wh_netplug_release(self->plug, 1, &self->err));
		SEES(1, 3);
		DO(wh_netplug_turn(self->plug, 2, &self->err));
		DO(wh_netplug_release(self->plug, 2, &self->err));
		SEES(2, 10);
		return;
	}
	DO(wh_netplug_turn(self->plug, 2, &self->err));
	SEND(3, 5);
	DO(wh_netplug_turn(self->plug, 3, &self->err));
	SEND(4, 2);
	DO(wh_netplug_release(self->plug, 1, &self->err));
	SEES(1, 3);
	SEES(1, 0);
	DO(wh_netplug_release(self->plug, 2, &self->err));
	SEES(2, 10);
	DO(wh_netplug_release(self->plug, 3, &self->err));
	SEES(3, 5);
}

TEST_F(contract, a_fence_lets_nothing_out)
{
	struct wh_netplug_status status;
	unsigned outside = 0;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 5);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	SEND(2, 5);
	DO(wh_netplug_fence(self->plug, &self->err));
	DO(wh_netplug_fence(self->plug, &self->err));
	ASSERT_EQ(-EIO, wh_netplug_release(self->plug, 1, NULL));
	ASSERT_EQ(-EIO, wh_netplug_turn(self->plug, 2, NULL));
	ASSERT_EQ(-EBUSY, wh_netplug_arm(self->plug, NULL));
	send_some(&self->world, self->plug, &self->number, 2, 5);
	SEES(1, 0);
	DO(wh_netplug_status(self->plug, &status, &self->err));
	ASSERT_EQ(WH_NETPLUG_FENCED, status.state);
	ASSERT_EQ(0, status.held_packets);
}

TEST_F(contract, disarmed_all_goes_and_it_begins_anew)
{
	struct wh_netplug_status status;
	unsigned outside = 0;

	for (unsigned again = 0; again < 3; again++) {
		DO(wh_netplug_arm(self->plug, &self->err));
		SEND(1, 4);
		DO(wh_netplug_turn(self->plug, 1, &self->err));
		SEND(1, 4);
		SEES(1, 0);
		DO(wh_netplug_status(self->plug, &status, &self->err));
		ASSERT_EQ(WH_NETPLUG_HELD, status.state);
		ASSERT_EQ(2, status.epoch);
		ASSERT_EQ(8, status.held_packets);
		ASSERT_EQ(0, status.dropped);
		DO(wh_netplug_disarm(self->plug, &self->err));
		SEES(1, 8);
		SEND(7, 2);
		SEES(7, 2);
		DO(wh_netplug_status(self->plug, &status, &self->err));
		ASSERT_EQ(WH_NETPLUG_IDLE, status.state);
	}
}

TEST_F(contract, three_thousand_keep_their_order)
{
	unsigned outside = 0;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 3000);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	SEND(2, 1000);
	/* what is to arrive is taken while it arrives: the world outside is a tap too */
	DO(wh_netplug_release(self->plug, 1, &self->err));
	SEES(1, 3000);
}

/* What is outside is what was acknowledged, after each of many steps */
TEST_F(contract, whatever_the_order_of_steps)
{
	unsigned counts[256] = { 0 }, epoch = 1, released = 0, outside = 0, random = 7;

	DO(wh_netplug_arm(self->plug, &self->err));
	for (unsigned step = 0; step < 150 && epoch < 250; step++) {
		random = random * 1103515245 + 12345;
		switch (random >> 16 & 3) {
		case 0:
			if (closed_most && epoch - 1 - released >= closed_most)
				break;
			DO(wh_netplug_turn(self->plug, epoch, &self->err));
			epoch++;
			break;
		case 1:
			if (released + 1 == epoch)
				break;
			released++;
			DO(wh_netplug_release(self->plug, released, &self->err));
			SEES(released, counts[released]);
			break;
		default:
			SEND(epoch, random >> 20 & 7);
			counts[epoch] += random >> 20 & 7;
			break;
		}
	}
	ASSERT_LT(10, released);
	SEES(released, 0);
}

#endif /* SELFTESTS_NETPLUG_CONTRACT_H */
