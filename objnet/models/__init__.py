"""Well-known architectures, with the keys of torchvision's and transformers' state dicts: their checkpoints load unchanged.

torchvision's names make image models (``resnet18()``, ``vgg16()``, ``mobilenet_v2()``, ``vit_b_16()``); transformers' names
make models from a configuration, which may be transformers' own object or the dict of a ``config.json``
(``BertModel(config)``, ``GPT2LMHeadModel(config)``, ``LlamaForCausalLM(config)``, ``ViTModel(config)``).  Nothing is
downloaded, and none of the two libraries is imported.
"""

from __future__ import annotations

from objnet.models._cache import KVCache
from objnet.models._rotary import RopeParameters
from objnet.models.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from objnet.models.gpt2 import GPT2Config, GPT2LMHeadModel, GPT2Model
from objnet.models.llama import LlamaConfig, LlamaForCausalLM, LlamaModel
from objnet.models.mlp import MLP
from objnet.models.mobilenetv1 import MobileNetV1, mobilenet_v1
from objnet.models.mobilenetv2 import MobileNetV2, mobilenet_v2
from objnet.models.resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnet200,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from objnet.models.resnet_v2 import ResNetV2, resnet18_v2, resnet34_v2, resnet50_v2, resnet101_v2, resnet152_v2, resnet200_v2
from objnet.models.vgg import VGG, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from objnet.models.vision_transformer import VisionTransformer, vit_b_16, vit_b_32, vit_h_14, vit_l_16, vit_l_32
from objnet.models.vit import ViTConfig, ViTForImageClassification, ViTModel

__all__ = [
    "MLP",
    "VGG",
    "BertConfig",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "BertModel",
    "GPT2Config",
    "GPT2LMHeadModel",
    "GPT2Model",
    "KVCache",
    "LlamaConfig",
    "LlamaForCausalLM",
    "LlamaModel",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "ResNetV2",
    "RopeParameters",
    "ViTConfig",
    "ViTForImageClassification",
    "ViTModel",
    "VisionTransformer",
    "mobilenet_v1",
    "mobilenet_v2",
    "resnet18",
    "resnet18_v2",
    "resnet34",
    "resnet34_v2",
    "resnet50",
    "resnet50_v2",
    "resnet101",
    "resnet101_v2",
    "resnet152",
    "resnet152_v2",
    "resnet200",
    "resnet200_v2",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
