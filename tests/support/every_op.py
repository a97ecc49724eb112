"""The spec of a network with every op, every merge and every kind of output, so that one test covers them all."""

#: A small network that uses every op, every merge, every mode of a side branch, features, and survival factors.
EVERY_OP = """
rescompile: 1
name: every_op
input: [3, 19, 17]
parameters: {classes: 5}
survival: {schedule: linear, last: 0.5, unit: batch, rescale: test}
blocks:
  squeeze:
    body:
      - parallel:
          merge: mul
          branches:
            - identity
            - [global_avgpool, excite: {conv: {channels: in_channels, kernel: 1, bias: true}}, sigmoid]
  unit:
    parameters: {channels: int, stride: 1}
    body:
      - residual:
          branch:
            - conv: {channels: channels, kernel: 3, stride: stride, groups: 2}
            - norm
          shortcut: {block: pad, channels: channels, stride: stride}
      - act: {kind: leaky_relu, slope: 0.2}
network:
  - conv1: {conv: {channels: 8, kernel: [3, 1], padding: [1, 0], bias: true, bias_init: torch_default}}
  - norm1: norm
  - relu
  - pool1: {maxpool: {kernel: 3, stride: 2, padding: 1, ceil: true}}
  - unit1: {block: unit, channels: 8}
  - unit2: {block: unit, channels: 12, stride: 2}
  - squeeze: {block: squeeze}
  - pool2: {avgpool: {kernel: 3, stride: 2, padding: 1, ceil: true}}
  - tap: {side: {body: [head: {conv: {channels: 2, kernel: 1}}], output: side, mode: always}}
  - aux: {side: {body: [aux_head: {conv: {channels: 2, kernel: 1}}], output: aux, mode: training}}
  - dead: {side: {body: [unused: {conv: {channels: 2, kernel: 1}}], mode: never}}
  - gated: {block: highway, depth: 2}
  - scale: -0.5
  - tanh
  - parallel:
      merge: concat
      branches:
        - [left: {conv: {channels: 4, kernel: 3, dilation: 2, padding: 2}}]
        - [subsample: 1]
  - dropout: 0.3
  - adaptive_avgpool: 2
  - flatten
  - fc: {linear: classes}
features: [unit1, pool2]
"""
