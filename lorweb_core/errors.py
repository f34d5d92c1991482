class LoRWebError(ValueError):
    """Input the method cannot work with.

    The message is for the person who gave that input: it names the file, layer or input, says what was
    expected and what to do. Callers show it as it is.
    """
