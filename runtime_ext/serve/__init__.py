"""An HTTP server of the OpenAI API's chat and text completions, over one exported model.

    command     options, the socket, signals
    app         routes and limits, on starlette
    protocol    what a request may ask for: checked here, by pydantic
    replies     the objects of an answer
    answer      from tokens to text: whole characters, stop strings, logprobs
    engine      the one thread that runs the model

Everything but `command` and `engine` needs the extra `serve`; nothing here is imported before the command runs.
"""
