"""Which folder describes which kind of cluster."""

from pathlib import Path

import pytest

from alignray.errors import SweepError
from alignray.launch.clusters import list_clusters, new_cluster, open_cluster

KINDS = {"local": "LocalCluster", "on-premises": "LauncherCluster", "aws": "LauncherCluster", "gcp": "LauncherCluster"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_opens_by_its_name_and_as_a_copy(kind, tmp_path):
    assert kind in list_clusters()
    new_cluster(tmp_path / "mine", kind)
    for name in (kind, str(tmp_path / "mine")):
        assert type(open_cluster(name)).__name__ == KINDS[kind]


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(
        SweepError, match=r"no cluster 'azure'; expected one of aws, .*local.*, or a folder like theirs"
    ):
        open_cluster("azure")
    with pytest.raises(SweepError, match=r"expected one of the files ray-start\.yaml, .* in .*, got none"):
        open_cluster(str(tmp_path))


def test_a_copy_takes_no_folder_that_is_there(tmp_path):
    with pytest.raises(SweepError, match="is there already and is left as it is"):
        new_cluster(tmp_path, "local")
    with pytest.raises(SweepError, match="no cluster 'azure'"):
        new_cluster(tmp_path / "mine", "azure")


def test_options_that_are_none_are_told(tmp_path):
    (tmp_path / "ray-start.yaml").write_text("port: 6379\n")
    with pytest.raises(SweepError, match=r"expected options of `ray start --head`, dashboard-host and dashboard-port"):
        open_cluster(str(tmp_path)).down()


def test_every_kind_has_a_page():
    pages = Path(__file__).parents[2] / "docs" / "cluster"
    assert {page.stem for page in pages.glob("*.md")} == set(list_clusters())
