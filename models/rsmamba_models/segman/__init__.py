"""SegMAN's encoder: windowed attention, a scan over its result, one residual (CVPR 2025).

Fu et al., "SegMAN: Omni-scale Context Modeling with State Space Models and Local Attention for
Semantic Segmentation", arXiv 2412.11890, as its official code computes it. Four stages of pre-norm
blocks. In the first three, LASS: neighbourhood attention, then a selective scan of what it found
along four directions. In the last one, neighbourhood attention, then attention of every pixel to
every pixel. Maps are channel-last inside the encoder and channel-first elsewhere. The paper's
decoder is ``decoders.mmscope``.
"""

from rsmamba_models.segman.encoder import Block, SegMANEncoder, Stage

__all__ = ["Block", "SegMANEncoder", "Stage"]
