"""A server and a client of gRPC by gRPC's own library: serve ADDRESS | call ADDRESS TIMES."""

import sys
import threading
from concurrent import futures

import grpc

SERVICE = "mesh.Test"


def echo(request, context):
    return request


def fail(request, context):
    context.abort(grpc.StatusCode(grpc_code(int(request))), "as wanted")


def grpc_code(number):
    return next(code.value for code in grpc.StatusCode if code.value[0] == number)


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def wait(request, context):
    done = threading.Event()
    context.add_callback(done.set)
    done.wait(30)
    return b""


def serve(address):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    methods = {"Echo": unary(echo), "Fail": unary(fail), "Count": stream(count), "Wait": unary(wait)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_insecure_port(address)
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


def call(address, times):
    with grpc.insecure_channel(address) as channel:
        echo = channel.unary_unary(f"/{SERVICE}/Echo")
        fail = channel.unary_unary(f"/{SERVICE}/Fail")
        count = channel.unary_stream(f"/{SERVICE}/Count")
        wait = channel.unary_unary(f"/{SERVICE}/Wait")
        for _ in range(times):
            echo(b"hello")
            list(count(b"5"))
            for number in (5, 16):
                try:
                    fail(str(number).encode())
                except grpc.RpcError as error:
                    assert error.code().value[0] == number, error
        pending = [echo.future(b"x" * 2000) for _ in range(times)]
        for each in pending:
            each.result()
        try:
            channel.unary_unary(f"/{SERVICE}/Missing")(b"")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
        # Given up by the client, without an answer.
        call = wait.future(b"")
        try:
            call.result(timeout=0.5)
        except grpc.FutureTimeoutError:
            call.cancel()
    print("done", flush=True)


if sys.argv[1] == "serve":
    serve(sys.argv[2])
else:
    call(sys.argv[2], int(sys.argv[3]))
