"""Backbones of Hugging Face are gated as they are: decorated forwards, `pixel_values=`, outputs of their own kind."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gate2static.gates import gate, set_gates
from gate2static.prune import prune
from gate2static.verify import verify

hugging_face = pytest.importorskip("transformers")

IMAGES = torch.randn(2, 3, 32, 32)
_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
_SIZES = {"image_size": 32, "patch_size": 8}
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}

BACKBONES: dict[str, Callable[[], Any]] = {
    "ViT": lambda: hugging_face.ViTModel(hugging_face.ViTConfig(**_VIT, **_SIZES)),
    "DINOv2": lambda: hugging_face.Dinov2Model(hugging_face.Dinov2Config(**_VIT, **_SIZES)),
    "BEiT": lambda: hugging_face.BeitModel(hugging_face.BeitConfig(**_VIT, **_SIZES)),
    "Swin": lambda: hugging_face.SwinModel(
        hugging_face.SwinConfig(image_size=32, embed_dim=8, depths=[1], num_heads=[2], window_size=4)
    ),
    "ConvNeXt": lambda: hugging_face.ConvNextBackbone(
        hugging_face.ConvNextConfig(**_STAGES, num_stages=2, out_features=["stage1", "stage2"])
    ),
    "ResNet": lambda: hugging_face.ResNetModel(hugging_face.ResNetConfig(**_STAGES, embedding_size=8)),
    "SegFormer": lambda: hugging_face.SegformerModel(
        hugging_face.SegformerConfig(
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[8, 16],
            num_attention_heads=[1, 2],
            patch_sizes=[7, 3],
            strides=[4, 2],
            mlp_ratios=[2, 2],
        )
    ),
}


class Pooled(nn.Module):
    """Reads the output by its names, as users of Hugging Face do."""

    def forward(self, output: Any) -> Tensor:
        maps = getattr(output, "feature_maps", None) or (output.last_hidden_state,)
        return torch.stack([features.flatten(1).mean(1) for features in maps], 1)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_of_hugging_face_is_gated_as_it_is(name: str) -> None:
    """Used to end in "only a tensor's items can be assigned while tracing", at a line of the decorator's."""
    torch.manual_seed(0)
    backbone = BACKBONES[name]().eval()
    heads = {task: Pooled() for task in "ab"}
    gated = gate(backbone, tasks=["a", "b"], example_inputs={"pixel_values": IMAGES}, heads=heads).eval()
    set_gates(gated, False)
    torch.testing.assert_close(gated(pixel_values=IMAGES)["a"], Pooled()(backbone(IMAGES)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gated(IMAGES), gated(pixel_values=IMAGES))
    assert verify(gated, prune(gated)).passed
