def render(certificate, name):
    return "x"
