"""What a worker honours is what clients are told (checklist CAP-26)."""

from gridwright.auth.identity import Role
from gridwright.documents import OUTPUT_NODE_PROPERTIES
from gridwright.instances import Instances, InstanceSettings
from gridwright.wire.capabilities import server_capabilities


def test_the_node_properties_that_are_announced_are_those_that_the_worker_reports() -> None:
    instance = Instances([InstanceSettings(name="main")])["main"]
    announced = server_capabilities(instance, frozenset(Role)).execution_capabilities.supported_node_properties
    assert set(announced) == OUTPUT_NODE_PROPERTIES
