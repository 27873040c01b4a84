"""The decoders that go with every pyramid encoder."""

from rsmamba_models.zoo.entry import DecoderEntry

DECODERS: tuple[DecoderEntry, ...] = (
    DecoderEntry("fcn", "decoders.fcn", "FCNHead", "FCN, arXiv 1411.4038"),
    DecoderEntry("mmscope", "decoders.mmscope", "MMSCopE", "SegMAN, arXiv 2412.11890"),
    DecoderEntry("upernet", "decoders.upernet", "UPerNet", "UPerNet, arXiv 1807.10221"),
    DecoderEntry("unet", "decoders.unet", "UNet", "RS-Mamba, arXiv 2404.02668"),
)
