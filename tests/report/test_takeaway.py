"""The first sentence of a report names the network to deploy, and says when there is none."""

from dataclasses import replace

from gate2static.report.takeaway import takeaway


def test_the_cheapest_network_that_is_as_good_is_named(content):
    separate, shared, gated, _ = content.rows
    cheaper = replace(gated, name="gated-1", delta_mtl_percent=0.1, latency_ratios={"separate": 0.5})
    shared = replace(shared, latency_ratios={"separate": 0.4})
    sentence = takeaway((separate, shared, gated, cheaper), content.columns)
    assert sentence == (
        "gated-1 loses nothing on average against separate networks: Δ_MTL +0.10 % at 0.51 of their MACs and 0.50 of "
        "their latency."
    )


def test_where_none_is_as_good_the_nearest_is_named(content):
    separate, shared, gated, _ = content.rows
    sentence = takeaway((separate, shared, replace(gated, delta_mtl_percent=-0.3)), content.columns)
    assert sentence.startswith("Every network loses against separate networks; gated-0.05 comes nearest: Δ_MTL -0.30 %")


def test_a_network_that_costs_as_much_is_nothing_to_gain_from(content):
    separate, _, gated, _ = content.rows
    sentence = takeaway((separate, replace(gated, latency_ratios={"separate": 1.2})), content.columns)
    assert "1.20 of their latency. It is no cheaper" in sentence


def test_nothing_is_said_where_nothing_can_be_compared(content):
    assert takeaway(content.rows[:1], content.columns) == ""
    assert takeaway(content.rows[1:], content.columns) == ""


def test_tasks_that_lose_are_named(content):
    separate, _, gated, _ = content.rows
    metrics = {**separate.metrics, "mask": 0.846, "left": separate.metrics["left"] * 0.995}
    sentence = takeaway((separate, replace(gated, metrics=metrics)), content.columns)
    assert sentence.endswith("of their latency; mask is 6.0 % worse.")
