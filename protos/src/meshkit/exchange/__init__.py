"""Many small calls in one message: unary calls between two processes share a stream that stays open, below the
generated stubs and servicers. See ``tallygate/mesh/v1/exchange.proto`` for what crosses, ADR 0023 for why.

Both halves are made of what the local channel is (``meshkit.local``): the client holds the same call object, the
handler the same context; but each process has an ``Rpc`` of its own for the call.
"""
