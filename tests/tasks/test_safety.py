"""Δ_I and η̂: by hand, and all 80 figures that tables 1 to 4 of Safe Multi-Task Learning print."""

import pytest

from gate2static.tasks import KINDS, Task, delta_i, eta, relative_gains

# The tables: task -> how many metrics; the single-task networks; then, by method, differences (positive is better) with
# the printed Δ_I and η̂.
CITYSCAPES = ((2, 2), (67.48, 91.00, 0.0139, 46.2507), {
    "DMTL": ((-0.08, -0.08, -0.0003, 0.8245), -0.0014, 25),
    "Cross-stitch": ((0.53, 0.29, 0.0004, 1.8261), 0.0198, 100),
    "MTAN": ((1.49, 0.59, 0.0003, 2.4999), 0.0260, 100),
    "NDDR-CNN": ((0.54, 0.25, 0.0002, 1.3845), 0.0138, 100),
    "AdaShare": ((0.68, 0.20, -0.0005, -20.651), -0.1175, 50),
    "AFA": ((1.44, 0.52, -0.0019, -0.9136), -0.0323, 50),
    "SMTL": ((1.50, 0.62, 0.0005, 3.3886), 0.0346, 100),
    "L-SMTL": ((1.17, 0.51, 0.0001, 3.2747), 0.0252, 100),
    "SMTL_c": ((1.62, 0.63, 0.0008, -1.9361), 0.0117, 75),
    "L-SMTL_c": ((1.18, 0.38, 0.0008, 1.5060), 0.0279, 100),
})  # fmt: skip
NYU = ((2, 2, 5), (53.11, 75.20, 0.3957, 0.1632, 22.26, 15.49, 38.61, 64.43, 74.69), {
    "DMTL": ((0.52, 0.16, 0.0104, 0.0032, -1.34, -1.57, -3.31, -3.42, -2.69), -0.0127, 67),
    "Cross-stitch": ((0.43, 0.09, 0.0082, 0.0052, -0.31, -0.52, -0.82, -0.93, -0.77), 0.0041, 67),
    "MTAN": ((1.03, 0.82, 0.0176, 0.0083, -0.51, -0.90, -1.80, -1.58, -1.16), 0.0098, 67),
    "NDDR-CNN": ((0.73, 0.03, 0.0086, 0.0072, -0.34, -0.58, -0.94, -1.00, -0.77), 0.0065, 67),
    "AdaShare": ((-7.72, -5.42, -0.0508, -0.0213, -2.26, -2.08, -4.38, -4.40, -3.99), -0.1107, 0),
    "AFA": ((-1.57, -1.29, -0.0073, -0.0060, -1.97, -1.91, -3.54, -4.21, -3.73), -0.0449, 0),
    "SMTL": ((0.16, 0.28, 0.0071, 0.0042, 0.26, 0.00, 0.03, 0.46, 0.53), 0.0102, 100),
    "L-SMTL": ((0.12, 0.10, 0.0078, 0.0035, 0.39, -0.06, -0.25, 0.55, 0.67), 0.0091, 85),
    "SMTL_c": ((0.09, 0.02, 0.0091, 0.0045, 0.26, 0.10, 0.30, 0.62, 0.59), 0.0117, 100),
    "L-SMTL_c": ((0.46, 0.21, 0.0132, 0.0081, 0.51, 0.28, 0.83, 1.09, 0.90), 0.0218, 100),
})  # fmt: skip
PASCAL = ((1, 1, 2, 5), (65.14, 58.58, 65.02, 77.47, 15.94, 24.87, 48.42, 80.79, 90.03), {
    "DMTL": ((-0.37, -0.67, -0.92, -0.51, -1.73, -1.29, -6.43, -4.86, -3.02), -0.0262, 0),
    "Cross-stitch": ((-0.17, 0.05, -0.56, -0.40, -0.62, -0.45, -2.36, -2.68, -1.04), -0.0096, 25),
    "MTAN": ((-0.58, 0.50, -0.45, -0.23, -1.20, -0.89, -4.58, -3.31, -2.04), -0.0147, 25),
    "NDDR-CNN": ((0.14, 0.60, 0.07, 0.00, -0.37, -0.24, -1.50, -0.94, -0.59), -0.0008, 75),
    "AdaShare": ((-12.7, -7.30, -3.65, -2.50, -1.68, -1.23, -6.46, -4.66, -2.83), -0.1017, 0),
    "AFA": ((2.12, 2.11, -1.95, -3.96, -1.63, -1.28, -5.68, -4.42, -2.88), -0.0108, 50),
    "SMTL": ((0.01, 1.05, 0.20, 0.13, 0.26, 0.22, 1.08, 0.74, 0.39), 0.0082, 100),
    "L-SMTL": ((0.29, 1.39, -0.80, -0.16, 0.34, 0.40, 0.95, 1.18, 0.81), 0.0093, 75),
    "SMTL_c": ((0.88, 1.43, 0.22, 0.12, 0.36, 0.32, 1.32, 1.08, 0.61), 0.0142, 100),
    "L-SMTL_c": ((0.23, 0.82, 0.61, 0.57, 0.53, 0.38, 2.43, 1.36, 0.65), 0.0126, 100),
})  # fmt: skip
TASKONOMY = ((2, 2, 1, 1, 5), (65.42, 97.63, 0.0072, 0.0117, 0.1103, 0.1349, 10.39, 4.19, 73.67, 86.21, 90.52), {
    "DMTL": ((-0.74, -0.07, -0.0026, -0.0043, -0.0022, -0.0025, -1.25, -0.88, -3.43, -1.93, -1.44), -0.0983, 0),
    "Cross-stitch": ((5.87, 0.67, 0.0005, 0.0009, 0.0100, 0.0019, 1.50, 0.17, 4.21, 3.81, 3.00), 0.0580, 100),
    "MTAN": ((6.34, 0.69, -0.0011, -0.0019, -0.0248, -0.0111, 0.99, -0.18, 2.30, 2.89, 2.41), -0.0767, 36),
    "NDDR-CNN": ((6.64, 0.69, 0.0002, -0.0028, 0.0133, 0.0043, 1.86, 0.47, 4.78, 4.18, 3.32), 0.0378, 90),
    "AdaShare": ((4.90, 0.50, -0.0045, -0.0073, 0.0087, -0.0001, -1.17, -1.93, -3.93, -0.37, -0.12), -0.1265, 40),
    "AFA": ((5.84, 0.57, -0.0016, -0.0027, 0.0465, 0.0524, 1.08, -0.17, 3.00, 3.27, 2.68), 0.1331, 76),
    "SMTL": ((4.99, 0.58, 0.0003, 0.0006, 0.0158, 0.0045, 1.64, 0.29, 4.62, 3.95, 3.06), 0.0676, 100),
    "L-SMTL": ((4.37, 0.53, -0.0006, -0.0011, 0.0129, 0.0026, 1.87, 0.19, 5.02, 4.49, 3.57), 0.0321, 80),
    "SMTL_c": ((6.24, 0.68, 0.0001, 0.0002, 0.0171, 0.0047, 1.70, 0.28, 4.74, 4.14, 3.25), 0.0665, 100),
    "L-SMTL_c": ((4.75, 0.54, 0.0005, 0.0009, 0.0173, 0.0040, 2.02, 0.42, 5.38, 4.62, 3.67), 0.0782, 100),
})  # fmt: skip
TABLES = {"CityScapes": CITYSCAPES, "NYUv2": NYU, "PASCAL-Context": PASCAL, "Taskonomy": TASKONOMY}
# The two misprints: what the tables' own numbers give.
CORRECTED = {("PASCAL-Context", "AdaShare"): (-0.1098, 0), ("NYUv2", "L-SMTL"): (0.0091, 86.7)}
ROWS = [(table, method) for table, (_, _, rows) in TABLES.items() for method in rows]


@pytest.mark.parametrize(("table", "method"), ROWS)
def test_the_papers_tables_are_recomputed(table: str, method: str) -> None:
    counts, single, rows = TABLES[table]
    differences, printed_delta, printed_eta = rows[method]
    relative = [difference / value for difference, value in zip(differences, single, strict=True)]
    gains = {}
    for task, count in enumerate(counts):
        start = sum(counts[:task])
        gains[f"{task}"] = {f"{metric}": gain for metric, gain in enumerate(relative[start : start + count])}
    expected_delta, expected_eta = CORRECTED.get((table, method), (printed_delta, printed_eta))
    # Differences are printed with two to four digits.
    assert delta_i(gains) == pytest.approx(expected_delta, abs=0.00025)
    assert 100 * eta(gains) == pytest.approx(expected_eta, abs=0.7)
    if (table, method) in CORRECTED:
        assert (delta_i(gains), 100 * eta(gains)) != (
            pytest.approx(printed_delta, abs=0.00025),
            pytest.approx(printed_eta, abs=0.7),
        )


def test_a_lower_error_is_a_gain() -> None:
    depth = Task(name="depth", kind=KINDS["depth"], channels=1)
    baseline = {"depth": {"rmse": 2.0, "abs_error": 1.0, "rel_error": 0.0, "within_1.25": 0.5}}
    scores = {"depth": {"rmse": 1.0, "abs_error": 1.5, "rel_error": 0.0, "within_1.25": 0.6}}
    gains = relative_gains(scores, baseline, [depth])
    # A metric that is 0 for the single-task network is no measure to relate to.
    assert gains == {"depth": {"rmse": 0.5, "abs_error": -0.5, "within_1.25": pytest.approx(0.2)}}
    assert delta_i(gains) == pytest.approx(0.2 / 3)
    assert eta(gains) == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_knows_which_of_its_metrics_are_errors(name: str) -> None:
    kind = KINDS[name]
    metrics = set(kind.metrics(3))
    assert kind.errors <= metrics
    assert (kind.metric_name in kind.errors) is not kind.higher_is_better
