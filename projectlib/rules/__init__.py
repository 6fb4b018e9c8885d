"""What turns samples into gradients: data in, gradients out, one small class each.

To add one, write a class after ``Rule`` or ``LocalRule`` and a yaml that names it, here or in a folder of one's own
(examples/).
"""

from projectlib.rules.backprop import Backprop
from projectlib.rules.batch import BatchRule
from projectlib.rules.biohsic import BioHSIC
from projectlib.rules.delta import Delta
from projectlib.rules.direct_feedback_alignment import DirectFeedbackAlignment
from projectlib.rules.feedback_alignment import FeedbackAlignment
from projectlib.rules.frozen import Frozen
from projectlib.rules.hsic import HSIC
from projectlib.rules.local import Hidden, HiddenUpdate, LocalRule
from projectlib.rules.local_classifier import LocalClassifier
from projectlib.rules.phsic import PHSIC
from projectlib.rules.rule import Rule, TrainingState, Update
from projectlib.rules.similarity_matching import SimilarityMatching

__all__ = [
    "HSIC",
    "PHSIC",
    "Backprop",
    "BatchRule",
    "BioHSIC",
    "Delta",
    "DirectFeedbackAlignment",
    "FeedbackAlignment",
    "Frozen",
    "Hidden",
    "HiddenUpdate",
    "LocalClassifier",
    "LocalRule",
    "Rule",
    "SimilarityMatching",
    "TrainingState",
    "Update",
]
