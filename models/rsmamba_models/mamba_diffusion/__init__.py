"""Mamba-Diffusion: optical and SAR image to land cover, with a diffusion model as the decoder.

Du et al., "A Mamba-Diffusion Framework for Multimodal Remote Sensing Image Semantic Segmentation",
IEEE GRSL 21 (2024), DOI 10.1109/LGRS.2024.3476269, as its official code computes it.
In the order of the paper's figure 2:

- ``blocks``: VMamba's block; a stack of them per modality and stage.
- ``fusion``: double cross-fusion (DCF) and dual-splitting S4 (DS-S4) between the modalities.
- ``encoder``: both encoders and their fusion, four stages, one map each.
- ``neck``: the four maps to one at stride 4.
- ``denoiser``: a deformable transformer that reads class scores off noisy features.
- ``diffusion``: noise schedules and samplers.
- ``model``: all of it; inference and the training step.
"""

from rsmamba_models.mamba_diffusion.model import MambaDiffusion

__all__ = ["MambaDiffusion"]
