"""Initialising a student from its teacher: copied layers, sliced weights, and Net2Net's growth.

Every function changes the weights of one model in place and only reads the other. The student is filled from the teacher;
with Net2Net the large model is filled from the small model.
"""

from edgekd.models.init.copy import copy_layers, every_nth
from edgekd.models.init.extend import extend
from edgekd.models.init.net2net import deeper, wider
from edgekd.models.init.slice import slice_weights

__all__ = ["copy_layers", "deeper", "every_nth", "extend", "slice_weights", "wider"]
