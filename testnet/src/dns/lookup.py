# As lookup.c, by Python.
import socket, sys, time

family = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}.get(sys.argv[1], socket.AF_UNSPEC)
port = int(sys.argv[2])
codes = {getattr(socket, name): name for name in ("EAI_AGAIN", "EAI_FAIL", "EAI_NONAME", "EAI_SYSTEM", "EAI_NODATA") if hasattr(socket, name)}
for _ in range(int(sys.argv[3])):
    found = []
    start = time.monotonic()
    try:
        found = socket.getaddrinfo(sys.argv[4], port, family, socket.SOCK_STREAM)
        end = time.monotonic()
    except socket.gaierror as error:
        end = time.monotonic()
        print("error", codes.get(error.errno, "other"), error.strerror)
    for kind, _, _, _, address in found:
        if port == 0:
            break
        with socket.socket(kind, socket.SOCK_STREAM) as client:
            client.settimeout(2)
            try:
                error = client.connect_ex(address)
            except socket.timeout:
                error = 110
        print("connect", address[0], 110 if error == 11 else error)
        if error == 0:
            break
    for item in found:
        print("address", item[4][0])
    print("round", int((end - start) * 1000000))
