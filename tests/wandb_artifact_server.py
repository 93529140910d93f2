"""The part of the tests' W&B server that takes artifacts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class ReceivedArtifact:
    """What the server has of one version of an artifact."""

    name: str
    type: str
    run: str
    state: str = "PENDING"
    manifest: Json = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class ArtifactOperations:
    """GraphQL operations on artifacts, by name, for `tests.wandb_server.WandbServer`."""

    url: str
    artifacts: list[ReceivedArtifact]

    def _on_CreateArtifact(self, asked: Json) -> Json:
        given, number = asked["input"], str(len(self.artifacts))
        name = given["artifactCollectionName"]
        self.artifacts.append(ReceivedArtifact(name, given["artifactTypeName"], given["runName"]))
        sequence = {"latestArtifact": None}
        artifact = {"id": number, "state": "PENDING", "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    def _on_CreateArtifactManifest(self, asked: Json) -> Json:
        number = asked["artifactID"]
        file = {"id": number, "uploadUrl": f"{self.url}/manifests/{number}", "uploadHeaders": []}
        manifest = {"id": number, "file": file if asked["includeUpload"] else {"id": number}}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def _on_CreateArtifactFiles(self, asked: Json) -> Json:
        edges = []
        for file in asked["input"]["artifactFiles"]:
            path = f"{file['artifactID']}/{file['name']}"
            node = {
                "storagePath": path,
                "uploadUrl": f"{self.url}/artifact-files/{path}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _on_CommitArtifact(self, asked: Json) -> Json:
        artifact = self.artifacts[int(asked["artifactID"])]
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": ""}}}
