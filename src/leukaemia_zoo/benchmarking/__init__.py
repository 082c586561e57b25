"""Several models on the same cells: judged, compared, timed."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.benchmarking.cost import Cost, measure_costs
    from leukaemia_zoo.benchmarking.operations import flops
    from leukaemia_zoo.benchmarking.options import BenchmarkOptions
    from leukaemia_zoo.benchmarking.runner import benchmark

__getattr__, __dir__, __all__ = lazily(__name__)
