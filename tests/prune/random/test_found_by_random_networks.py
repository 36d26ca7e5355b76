"""What the search over random networks found, each wrong or refused once."""

from typing import Any


def test_features_that_are_rounding_errors_are_told_from_a_wrong_trace(generator: Any) -> None:
    # Attention makes the tokens equal but for rounding; the norm over tokens then divides by almost nothing.
    program = (
        ("attention.attention_by_einsum", 6596),
        ("tokens.class_token", 9018),
        ("attention.torch_attention", 743),
        ("tokens.convolution_1d", 4633),
    )
    generator.check(generator.Case(kind="tokens", program=program, heads=("pooled",), p=1.0, seed=881))


def test_ties_end_where_other_numbers_of_channels_are_concatenated(generator: Any) -> None:
    program = (("any.concatenation", 9987),)
    case = generator.Case(kind="vectors", program=program, heads=("tokens",), p=1.0, seed=289, tie_residual=True)
    generator.check(case)
