/* Looks after security labels and does nothing by them: what a server has to have loaded for labels to come back. */
#include "postgres.h"

#include "commands/seclabel.h"
#include "fmgr.h"

PG_MODULE_MAGIC;

static void
check(const ObjectAddress *object, const char *label)
{
	if (label != NULL && strcmp(label, "MASKED") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_NAME), errmsg("\"%s\" is no label", label)));
}

void
_PG_init(void)
{
	register_label_provider("anon", check);
}
