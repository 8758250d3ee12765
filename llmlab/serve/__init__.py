"""A trained model over HTTP, in the form of OpenAI's interface, with a page to talk to it."""
