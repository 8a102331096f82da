"""What the generation task counts as right."""


def contains(responses, docs):
    """The answer itself where a response holds it, whatever its case and what stands around it; else the response."""
    return [
        [doc["answer"] if doc["answer"].lower() in response.lower() else response for response in of_doc]
        for of_doc, doc in zip(responses, docs)
    ]
