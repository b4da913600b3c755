"""Grants operations to a user of Kafka: BOOTSTRAP USER RESOURCE:PREFIX:OPERATION…"""

import sys

from confluent_kafka.admin import (AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType,
                                   ResourceType)

servers, user, *grants = sys.argv[1:]
bindings = []
for grant in grants:
    resource, prefix, operation = grant.split(":")
    bindings.append(AclBinding(ResourceType[resource.upper()], prefix, ResourcePatternType.PREFIXED, f"User:{user}", "*",
                               AclOperation[operation.upper()], AclPermissionType.ALLOW))
client = AdminClient({"bootstrap.servers": servers})
for created in client.create_acls(bindings, request_timeout=20).values():
    created.result()
