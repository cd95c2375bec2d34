-- The health of a CheckpointPipeline for Argo CD, from the conditions that Preheat's controller keeps.
-- For argocd-cm: resource.customizations.health.preheat.dev_CheckpointPipeline.
local status = obj.status or {}
if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "the controller has not looked at this generation yet"}
end
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Ready" then
    local health = {True = "Healthy", False = "Degraded"}
    return {status = health[condition.status] or "Progressing", message = condition.message}
  end
end
return {status = "Progressing", message = "the controller has not said yet whether it is ready"}
