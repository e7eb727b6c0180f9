import pickle
from dataclasses import replace

import numpy as np
import pytest

from alignray.data import Panel, regroup
from alignray.sweep import seal
from alignray.trial import SplitConfig


@pytest.mark.parametrize("embargo", [0, 2, 5])
@pytest.mark.parametrize("eras", [1, 6])
@pytest.mark.parametrize(("scheme", "folds"), [("expanding", 1), ("rolling", 1), ("blocked", 2)])
def test_no_holdout_or_embargo_era_is_among_what_trials_get(panel, embargo, eras, scheme, folds):
    split = SplitConfig(folds=folds, embargo=embargo, scheme=scheme).cut(panel.num_eras, holdout=eras)
    searched, sealed = seal(panel, split.holdout, embargo)
    assert sealed.eras == panel.eras[-eras:]
    assert searched.eras == panel.eras[: panel.num_eras - eras - embargo]
    assert not set(searched.eras) & set(sealed.eras)
    for fold in split.folds:  # the indices of the folds mean the same eras in what trials get
        assert max(*fold.train, *fold.validation) < searched.num_eras
        assert [searched.eras[era] for era in fold.validation] == [panel.eras[era] for era in fold.validation]


def test_what_goes_to_the_workers_holds_no_byte_of_the_holdout(panel):
    """A view would carry the whole panel along; what is pickled must be cut."""
    mark = np.float32(1234.5678)
    start = panel.num_eras - 6 - 2  # the embargo's eras are marked as well
    offset = 0
    shards = []
    for shard in panel.shards:
        target = shard.target.copy()
        first = max(start - offset, 0)
        if first < len(shard.eras):
            target[shard.offsets[first] :] = mark
        shards.append(replace(shard, target=target))
        offset += len(shard.eras)
    marked = Panel(panel.schema, tuple(shards))
    assert mark.tobytes() in pickle.dumps(marked.shards, protocol=5)
    searched, sealed = seal(marked, range(panel.num_eras - 6, panel.num_eras), 2)
    assert mark.tobytes() not in pickle.dumps(searched.shards, protocol=5)
    assert mark.tobytes() not in pickle.dumps(regroup(searched, 256).shards, protocol=5)
    assert mark.tobytes() in pickle.dumps(sealed.shards, protocol=5)
