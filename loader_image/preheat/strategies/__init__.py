"""How a checkpoint enters the model: one file per strategy. torch is imported when one runs, not before."""

from preheat.stage import LoadingStrategy
from preheat.strategies.cold_start import ColdStartLoader
from preheat.strategies.transfer_learning import TransferLearningLoader
from preheat.strategies.warm_start import WarmStartLoader
from preheat.strategies.weights_only import WeightsOnlyLoader

STRATEGIES: dict[str, type[LoadingStrategy]] = {
    "cold_start": ColdStartLoader,
    "transfer_learning": TransferLearningLoader,
    "warm_start": WarmStartLoader,
    "weights_only": WeightsOnlyLoader,
}
