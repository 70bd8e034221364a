"""SeqNet, the network of the model-parallel tutorials, split by hand and by `partitioner`.

`python -m examples.seqnet` shows both side by side, on virtual GPUs where there are no real ones.
"""

from examples.seqnet.digits import digits
from examples.seqnet.model import HandSplitSeqNet, SeqNet

model = SeqNet()

__all__ = ["HandSplitSeqNet", "SeqNet", "digits", "model"]
