"""The files of Ray's cluster launcher, held against Ray's own validator, and what they let in."""

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from alignray.launch.clusters import list_clusters

KINDS = ("on-premises", "aws", "gcp")


def read(kind):
    return yaml.safe_load((list_clusters()[kind] / "cluster.yaml").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_ray_takes_the_file(kind):
    validate_config(prepare_config(read(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_machine_asks_for_the_token_and_shows_no_dashboard_to_the_network(kind):
    config = read(kind)
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("kind", ["aws", "gcp"])
def test_workers_are_spot_machines_that_come_and_go_and_the_head_is_not(kind):
    config = read(kind)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert not {"InstanceMarketOptions", "scheduling"} & head["node_config"].keys()
    for worker in types.values():
        assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
        spot = worker["node_config"].get("InstanceMarketOptions"), worker["node_config"].get("scheduling")
        assert spot in (
            ({"MarketType": "spot"}, None),
            (None, {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}),
        )
