"""Procedural aerial imagery: how a town is laid out, lit, photographed twice and labelled.

Read in this order: :mod:`conditions` (light, season, camera), :mod:`frame` (curved street grid),
:mod:`sketch` (the list of things to paint), :mod:`world` (what all fillers share),
:mod:`buildings`, :mod:`roads`, :mod:`lots`, :mod:`districts` and :mod:`countryside`,
:mod:`layout` (which district lies where), :mod:`textures` and :mod:`render` (polygons to pixels).
"""
