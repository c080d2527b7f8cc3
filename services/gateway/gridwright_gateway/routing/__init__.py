"""Where each call goes, and the Envoy configuration that sends it there.

Theory of operation: ``table`` says which service of ours answers which RPC service, and how
a call of it lives: held open or not, tried again or not. ``targets`` reads the gRPC targets
by which the settings name those services. ``envoy`` renders both into one static bootstrap
document for Envoy. All of it is plain functions of plain values; running Envoy with the
document is the business of ``gridwright_gateway.envoy_process``.
"""
