"""How a checkpoint enters the model: one file per strategy. torch is imported when one runs, not before."""

from preheat.strategies.transfer_learning import TransferLearningLoader
from preheat.strategies.weights_only import WeightsOnlyLoader

STRATEGIES = {
    "transfer_learning": TransferLearningLoader,
    "weights_only": WeightsOnlyLoader,
}
