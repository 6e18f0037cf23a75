/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_CLI_QMP_REQUESTS_H
#define SELFTESTS_CLI_QMP_REQUESTS_H

/*
 * What is said to a QEMU and to our monitor before any migration, right and wrong. Each is one
 * line, and the answers are to be of one kind.
 */
/* clang-format off */
static const char *const requests[] = {
	/* First: once something was begun, and has failed, QEMU takes it */
	"{\"execute\":\"migrate-start-postcopy\"}",
	"{\"execute\":\"nonsense\",\"id\":1}",
	"{\"execute\":\"qmp_capabilities\"}",
	"{\"exec-oob\":\"query-status\"}",
	"{\"execute\":1}",
	"{\"foo\":1}",
	"{}",
	"[]",
	"\"a\"",
	"null",
	"{\"execute\":\"query-status\",\"arguments\":[]}",
	"{\"execute\":\"query-status\",\"arguments\":{}}",
	"{\"execute\":\"query-status\",\"arguments\":null}",
	"{\"execute\":\"query-status\",\"control\":{}}",
	"{\"execute\":\"query-status\",\"arguments\":{\"x\":1}}",
	"{'execute':'query-status'}",
	"{'execute':'migrate','arguments':{'uri':'a\"b\\'c'}}",
	"{\"execute\":\"query-status\",}",
	"{\"execute\" \"query-status\"}",
	"{\"execute\":\"query-status\"]",
	"{\"execute\":\"query-status\",\"execute\":\"stop\"}",
	"{\"execute\":\"query-status\",\"id\":{\"a\":1,\"a\":2}}",
	"{\"execute\":\"query-status\\u0000\"}",
	"{\"execute\":\"\xff\xfe\"}",
	"{\"execute\":\"query-\x01status\"}",
	"{\"execute\":\"query-status\",\"id\":01}",
	"{\"execute\":\"query-status\",\"id\":[1,]}",
	"{\"execute\":\"query-status\",\"id\":nan}",
	"{\"execute\":\"query-status\",\"id\":NaN}",
	"xyz",
	"{\"execute\":\"migrate\"}",
	"{\"execute\":\"migrate\",\"arguments\":{\"uri\":1}}",
	"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"\"}}",
	"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp\"}}",
	"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"foo:bar\"}}",
	"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:/x\",\"bogus\":1}}",
	"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:/x\",\"resume\":1}}",
	"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:/x\",\"resume\":true}}",
	"{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"unix:/x\"}}",
	"{\"execute\":\"migrate-pause\"}",
	"{\"execute\":\"migrate-recover\"}",
	"{\"execute\":\"migrate-recover\",\"arguments\":{\"uri\":\"unix:/x\"}}",
	"{\"execute\":\"migrate_cancel\"}",
	"{\"execute\":\"migrate-continue\"}",
	"{\"execute\":\"migrate-continue\",\"arguments\":{\"state\":\"nonsense\"}}",
	"{\"execute\":\"migrate-continue\",\"arguments\":{\"state\":\"pre-switchover\"}}",
	"{\"execute\":\"migrate-set-capabilities\"}",
	"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":{}}}",
	"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[]}}",
	"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[1]}}",
	"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
		"[{\"capability\":\"nonsense\",\"state\":true}]}}",
	"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
		"[{\"capability\":\"events\"}]}}",
	"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
		"[{\"capability\":\"events\",\"state\":\"a\"}]}}",
	"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
		"[{\"capability\":\"events\",\"state\":true,\"x\":1}]}}",
	"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
		"[{\"capability\":\"postcopy-ram\",\"state\":false},"
		"{\"capability\":\"postcopy-preempt\",\"state\":true}]}}",
	"{\"execute\":\"migrate-set-parameters\",\"arguments\":{}}",
	"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"foo\":1}}",
	"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":\"x\"}}",
	"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":1.5}}",
	"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"downtime-limit\":2000001}}",
	"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"downtime-limit\":-5}}",
	"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"tls-creds\":5}}",
	"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"tls-creds\":\"\"}}",
	"{\"execute\":\"migrate-set-parameters\",\"arguments\":"
		"{\"multifd-compression\":\"nonsense\"}}",
	"{\"execute\":\"migrate-set-parameters\",\"arguments\":"
		"{\"max-bandwidth\":1048576,\"downtime-limit\":100,\"max-postcopy-bandwidth\":5}}",
	"{\"execute\":\"stop\",\"arguments\":{\"x\":1}}",
	"{\"execute\":\"stop\"}",
	"{\"execute\":\"query-status\"}",
	"{\"execute\":\"cont\"}",
	"{\"execute\":\"quit\",\"arguments\":{\"a\":1}}",
};
/* clang-format on */

#endif /* SELFTESTS_CLI_QMP_REQUESTS_H */
