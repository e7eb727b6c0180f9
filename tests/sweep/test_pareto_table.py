from types import SimpleNamespace

from alignray.report import pareto_table, trials_table
from alignray.search import SearchConfig, TrialRow


def test_the_table_of_the_front(make_sweep):
    def row(arm, number, state, *scores):
        named = dict(zip(("decision_corr", "exposure"), scores, strict=False)) if state == "complete" else {}
        return TrialRow(arm, number, state, scores[0], 3, None, {"cost.soft_l1.strength": 0.1 * number}, {}, named)

    rows = [
        row("mse", 0, "complete", 0.1, 1.0),
        row("mse", 1, "complete", 0.2, 3.0),
        row("mse", 2, "complete", 0.1, 2.0),
        row("mse", 3, "pruned", 0.9),
        row("aligned", 0, "complete", 0.0, 9.0),
    ]
    sweep = make_sweep(arms=("mse", "aligned"), search=SearchConfig(metrics=("exposure", "decision_corr")))
    manifest = SimpleNamespace(config=sweep)
    table = pareto_table(manifest, trials_table(rows))
    assert list(table.columns) == [
        "arm",
        "number",
        "score.decision_corr",
        "score.exposure",
        "cost.soft_l1.strength",
    ]
    assert list(zip(table["arm"], table["number"], strict=True)) == [("mse", 1), ("mse", 0), ("aligned", 0)]
    assert pareto_table(SimpleNamespace(config=make_sweep()), trials_table(rows)) is None
    assert pareto_table(manifest, trials_table(rows[3:4])).empty
