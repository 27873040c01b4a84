"""The decoders that go with every pyramid encoder."""

from rsmamba_models.zoo.entry import DecoderEntry

DECODERS: tuple[DecoderEntry, ...] = (
    DecoderEntry("fcn", "decoders.fcn", "FCNHead", "FCN, arXiv 1411.4038"),
    DecoderEntry("mmscope", "decoders.mmscope", "MMSCopE", "SegMAN, arXiv 2412.11890"),
    DecoderEntry("upernet", "decoders.upernet", "UPerNet", "UPerNet, arXiv 1807.10221"),
    DecoderEntry("ann", "decoders.ann", "ANN", "ANN, arXiv 1908.07678"),
    DecoderEntry("apcnet", "decoders.apcnet", "APCNet", "APCNet, CVPR 2019"),
    DecoderEntry("deeplabv3", "decoders.deeplabv3", "DeepLabV3", "DeepLabV3, arXiv 1706.05587"),
    DecoderEntry(
        "deeplabv3plus", "decoders.deeplabv3", "DeepLabV3Plus", "DeepLabV3+, arXiv 1802.02611"
    ),
    DecoderEntry("unet", "decoders.unet", "UNet", "RS-Mamba, arXiv 2404.02668"),
)
